"""The split of the images into pool and test set: made once, stored by id, and only read later.

Images that are linked, because their pixels are identical, because they are copies of each other
(--link-copies, --near-copies) or because they are of one group (such as a patient), are never on
both sides. Near copies are never tested.
"""

import itertools
from collections import defaultdict

from segmentation.common.runfiles import UserError, numpy_rng


def equal_groups(ids, keys):
    """Lists of two or more ids with the same key: sorted lists, ordered by their first ids."""
    members = defaultdict(list)
    for name, key in sorted(zip(ids, keys, strict=True)):
        members[key].append(name)
    return [names for names in members.values() if len(names) > 1]


def merge(*relations):
    """Unite groups that share members: lists of groups -> disjoint groups, as in `equal_groups`."""
    parent = {}

    def root(name):
        while parent.setdefault(name, name) != name:
            parent[name] = name = parent[parent[name]]
        return name

    for group in itertools.chain(*relations):
        for name in group:
            parent[root(name)] = root(group[0])
    names = list(parent)
    return equal_groups(names, [root(name) for name in names])


def units_of(ids, linked):
    """`ids` as disjoint tuples, in the order of their first ids: one for each of the groups of
    `linked` that has some of them, and one for each id in none.
    """
    unit_of = {name: place for place, group in enumerate(linked) for name in group}
    members = defaultdict(list)
    for name in ids:
        members[unit_of.get(name, name)].append(name)
    return [tuple(names) for names in members.values()]


def resolve_counts(labelled, pool_count, test_count):
    """Numbers of labelled images in the pool (None: all that remain) and in the test set.

    UserError if they add up to more than `labelled`, the number of images with masks.
    """
    if test_count is None:
        test_count = min(labelled // 5, max(0, labelled - (pool_count or 0)))
    if (pool_count or 0) + test_count > labelled:
        raise UserError(
            f"--pool-count {pool_count or 0} and --test-count {test_count} add up to more than the "
            f"{labelled} images with masks; give smaller numbers"
        )
    return pool_count, test_count


def take(groups, count):
    """Choose whole groups with `count` members in total, or the largest possible total below it.

    Groups are sequences; earlier ones are preferred. If each has one member, these are the first
    `count` groups.
    """
    window = (2 << count) - 1
    reach = [1]  # at the end, bit s of reach[i]: some of groups[i:] have s members together
    for group in reversed(groups):
        reach.append((reach[-1] | reach[-1] << len(group)) & window)
    reach.reverse()
    count = reach[0].bit_length() - 1
    taken = []
    for group, rest in zip(groups, reach[1:], strict=True):
        left = count - len(group)
        if left >= 0 and rest >> left & 1:
            taken.append(group)
            count = left
    return taken


def random_split(has_mask, duplicates, pool_count, test_count, seed, groups=None):
    """Sorted ids of the pool and of the test set, from a seeded shuffle.

    The sorted ids of all images with masks are shuffled. The test set is the end of this list; the
    pool is its beginning, or all the rest if `pool_count` is None. Images without a mask join the
    pool and do not count. The ids of a group of `duplicates` stay together; if no choice of whole
    groups gives a count exactly, there are fewer images. `has_mask` maps id -> bool.

    Among duplicates, an image without a mask keeps the others in the pool. With `groups` (of
    patients, say), united with the duplicates, it does not, as hardly any patient could be tested
    otherwise: it is in neither set if images linked to it are tested.
    """
    unit_of = {name: tuple(unit) for unit in merge(duplicates, groups or ()) for name in unit}
    order = sorted(name for name in has_mask if has_mask[name])
    numpy_rng(seed, "split").shuffle(order)
    units = list(dict.fromkeys(unit_of.get(name, (name,)) for name in order))
    if groups is None:
        free = [unit for unit in units if all(has_mask[name] for name in unit)]
    else:
        free = units
    bound = {name for name in has_mask if not has_mask[name]}
    bound.update(name for unit in set(units).difference(free) for name in unit)
    labelled = [tuple(name for name in unit if has_mask[name]) for unit in free]
    test = take(labelled[::-1], test_count)
    chosen = set(test)
    pool = [names for names in labelled if names not in chosen]
    if pool_count is not None:
        pool = take(pool, max(0, pool_count - sum(has_mask[name] for name in bound)))
    tested = {name for first, *_ in test for name in unit_of.get(first, (first,))}
    return sorted(bound.union(*pool) - tested), sorted(set().union(*test))


def given_split(is_test, has_mask, linked):
    """Sorted ids of the pool, of the test set, of test images without a mask, and left out ones.

    Left out of the pool are images linked to a test image, with or without a mask. `is_test` and
    `has_mask` map id -> bool; `linked` are groups of ids.
    """
    dropped = {
        name
        for group in linked
        if any(is_test[other] for other in group)
        for name in group
        if not is_test[name]
    }
    sides = {"pool": [], "test": [], "waiting": [], "dropped": []}
    for name in sorted(is_test):
        side = "dropped" if name in dropped else "pool"
        if is_test[name]:
            side = "test" if has_mask[name] else "waiting"
        sides[side].append(name)
    return tuple(sides.values())


def group_of(records, options):
    """Dict id -> group, from the rows of the manifest; empty without --group."""
    if not options.get("group"):
        return {}  # the groups of --demo are another matter
    return {row["id"]: row["group"] for row in records if "group" in row}


def originals(records):
    """The rows of the manifest that are no near copies."""
    return [row for row in records if "copy_of" not in row]


def near_copies(records):
    """Groups of ids: each image that has near copies, with them."""
    source_of = {row["id"]: row.get("copy_of", row["id"]) for row in records}
    return equal_groups(source_of, source_of.values())


def linked(manifest):
    """Groups of ids that must stay on one side: equal pixels, copies, or one group, united."""
    member = group_of(manifest["rows"], manifest["options"])
    equal = manifest["duplicates"], manifest.get("copies", ()), near_copies(manifest["rows"])
    return merge(*equal, equal_groups(member, member.values()))


def make_splits(records, duplicates, options, is_test):
    """Content of splits.json: the ids of pool and test set, and the rule of the split.

    `records` are the rows of the manifest, `duplicates` groups of ids of one picture, copies
    included; `is_test` maps id -> bool where the test set is given.
    """
    groups = None
    if options.get("group") or options.get("near_copies"):
        member = group_of(records, options)
        groups = [*equal_groups(member, member.values()), *near_copies(records)]
    has_mask = {row["id"]: row["mask"] is not None for row in records}
    if options["official_test"] or options.get("test_list"):
        given = "--test-list" if options.get("test_list") else "--test-images"
        test_of = {name: is_test.get(name, False) for name in has_mask}  # near copies: False
        linked = merge(duplicates, groups or ())
        pool, test, waiting, dropped = given_split(test_of, has_mask, linked)
        equal = "images equal to one of it leave the pool"
        seed, rule = None, f"given: the test set is {given}; {equal}"
        rule += ", as do those of its groups" if groups is not None else ""
    else:
        seed = options["seed"]
        counts = options["pool_count"], options["test_count"]
        first = {row["id"] for row in originals(records)}
        can_test = {name: has_mask[name] and name in first for name in has_mask}
        counts = resolve_counts(sum(can_test.values()), *counts)
        pool, test = random_split(can_test, duplicates, *counts, seed, groups)
        if not pool:
            count = options["test_count"]
            raise UserError(
                f"--test-count {count}: leaves no image for the pool; give a smaller one"
            )
        rule = "shuffle of the ids of images with masks: pool first, test last; "
        alike = (
            "linked ones on one side" if options.get("link_copies") else "identical ones together"
        )
        rule += alike if groups is None else "linked ones on one side"
        dropped = sorted(name for name in set(can_test).difference(pool) if not can_test[name])
        waiting = []
    splits = {"seed": seed, "rule": rule, "pool": pool, "test": test, "dropped": dropped}
    return {**splits, "waiting": waiting} if waiting or options.get("test_list") else splits
