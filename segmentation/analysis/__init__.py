"""An experiment over many arms: their names, the plan of its calls, statistics, tables."""
