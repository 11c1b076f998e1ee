"""The split of the images into pool and test set: made once, stored by id, and only read later.

Images with identical pixels are never in both.
"""

from collections import defaultdict

from segmentation.common.runfiles import UserError, numpy_rng


def equal_groups(ids, keys):
    """Lists of two or more ids with the same key: sorted lists, ordered by their first ids."""
    members = defaultdict(list)
    for name, key in sorted(zip(ids, keys, strict=True)):
        members[key].append(name)
    return [names for names in members.values() if len(names) > 1]


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


def random_split(has_mask, duplicates, pool_count, test_count, seed):
    """Sorted ids of the pool and of the test set, from a seeded shuffle.

    The sorted ids of all images with masks are shuffled. The test set is the end of this list; the
    pool is its beginning, or all the rest if `pool_count` is None. Images without a mask join the
    pool and do not count. The ids of a group of `duplicates` stay together; if no choice of whole
    groups gives a count exactly, there are fewer images. `has_mask` maps id -> bool.
    """
    group_of = {name: tuple(group) for group in duplicates for name in group}
    order = sorted(name for name in has_mask if has_mask[name])
    numpy_rng(seed, "split").shuffle(order)
    groups = list(dict.fromkeys(group_of.get(name, (name,)) for name in order))
    free = [group for group in groups if all(has_mask[name] for name in group)]
    bound = {name for name in has_mask if not has_mask[name]}
    bound.update(name for group in groups if group not in set(free) for name in group)
    test = take(free[::-1], test_count)
    chosen = set(test)
    pool = [group for group in free if group not in chosen]
    if pool_count is not None:
        pool = take(pool, max(0, pool_count - sum(has_mask[name] for name in bound)))
    return sorted(bound.union(*pool)), sorted(set().union(*test))


def official_split(is_test, duplicates):
    """Sorted ids of the pool, of the test set, and of images left out of the pool.

    Left out are images identical to a test image. `is_test` maps id -> bool; `duplicates` are
    groups of ids with identical images.
    """
    dropped = {
        name
        for group in duplicates
        if any(is_test[other] for other in group)
        for name in group
        if not is_test[name]
    }
    pool = [name for name in sorted(is_test) if not is_test[name] and name not in dropped]
    return pool, [name for name in sorted(is_test) if is_test[name]], sorted(dropped)


def make_splits(rows, duplicates, options, is_test):
    """Content of splits.json: the ids of pool and test set, and the rule of the split."""
    if options["official_test"]:
        pool, test, dropped = official_split(is_test, duplicates)
        rule = "given: the test set is --test-images; images equal to one of it leave the pool"
        return {"seed": None, "rule": rule, "pool": pool, "test": test, "dropped": dropped}
    has_mask = {row.record["id"]: row.mask_pixels is not None for row in rows}
    counts = resolve_counts(sum(has_mask.values()), options["pool_count"], options["test_count"])
    pool, test = random_split(has_mask, duplicates, *counts, options["seed"])
    rule = "shuffle of the ids of images with masks: pool first, test last; identical ones together"
    return {"seed": options["seed"], "rule": rule, "pool": pool, "test": test, "dropped": []}
