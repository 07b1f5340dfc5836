"""Selection by sorting, as a reference."""


def naive_keep(scores, weights, count):
    """The definition: sort by score, then by absolute weight, then by index; the first `count` entries go."""
    order = sorted(range(len(scores)), key=lambda i: (scores[i], abs(weights[i]), -i))
    gone = set(order[:count])
    return [i not in gone for i in range(len(scores))]
