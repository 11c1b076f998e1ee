"""From files of pictures to arrays addressed by image id."""
