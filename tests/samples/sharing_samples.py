"""Results of the analyses of sharing, written by hand, for the tests of their tables and figures."""

SHARING = {
    "kind": "sharing",
    "encoder": {"name": "m", "hash": "h", "layers": 2, "heads": 2, "parameters": 1000},
    "tasks": [
        {"task": "rte", "path": "a", "ticket_id": "t", "method": "importance", "heads": 3, "ffns": 1,
         "weight_remaining": 0.8, "kept_of_matrices": 0.6},
        {"task": "$cola$", "path": "b", "ticket_id": None, "method": None, "heads": 4, "ffns": 2,
         "weight_remaining": 1.0, "kept_of_matrices": 1.0},
    ],
    "union": {"heads": 4, "ffns": 2, "weight_remaining": 1.0, "kept_of_matrices": 1.0},
    "intersection": {"heads": 3, "ffns": 1, "weight_remaining": 0.8, "kept_of_matrices": 0.6},
    "used_by": {"heads": [0, 1, 3], "ffns": [0, 1, 1]},
    "layers": [
        {"layer": 0, "heads": [0, 1, 1], "ffns": [0, 0, 1]},
        {"layer": 1, "heads": [0, 0, 2], "ffns": [0, 1, 0]},
    ],
    "overlap": [{"tasks": ["rte", "$cola$"], "heads": 0.75, "heads_chance": 0.751, "ffns": 0.5, "ffns_chance": 0.5,
                 "weights": 0.6}],
    "structures": [
        {"unit": "heads", "layer": 0, "index": 0, "tasks": ["rte", "$cola$"], "importance": 0.5,
         "by_task": {"rte": 0.75, "$cola$": 0.25}, "share": {"rte": 0.75, "$cola$": 0.25}},
        {"unit": "heads", "layer": 0, "index": 1, "tasks": ["$cola$"], "importance": 0.25,
         "by_task": {"rte": 0.0, "$cola$": 0.5}, "share": {"rte": 0.0, "$cola$": 1.0}},
        {"unit": "ffns", "layer": 0, "index": 0, "tasks": ["rte", "$cola$"], "importance": 0.2,
         "by_task": {"rte": 0.2, "$cola$": 0.2}, "share": {"rte": 0.5, "$cola$": 0.5}},
        {"unit": "heads", "layer": 1, "index": 0, "tasks": ["rte", "$cola$"], "importance": 0.0,
         "by_task": {"rte": 0.0, "$cola$": 0.0}, "share": None},
        {"unit": "heads", "layer": 1, "index": 1, "tasks": ["rte", "$cola$"], "importance": 0.25,
         "by_task": {"rte": 0.25, "$cola$": 0.25}, "share": {"rte": 0.5, "$cola$": 0.5}},
        {"unit": "ffns", "layer": 1, "index": 0, "tasks": ["$cola$"], "importance": 0.1,
         "by_task": {"rte": 0.1, "$cola$": 0.1}, "share": {"rte": 0.5, "$cola$": 0.5}},
    ],
    "importance": {"definition": "sample", "sources": []},
    "without_importance": [],
}  # fmt: skip


def split(name, examples, labels, scores=None, unlabelled=0):
    """What a card says of a split."""
    return {"split": name, "unlabelled": unlabelled, "examples": examples, "labels": labels, "scores": scores,
            "words": {"min": 0, "median": 7.5, "mean": 8.0, "max": 42}, "repeated": 3}  # fmt: skip


CARDS = {
    "kind": "cards",
    "cards": [
        {"task": "mrpc", "kind": "classification", "labels": ["no", "yes"], "metrics": ["accuracy", "f1"],
         "splits": [split("train", 3000, {"no": 1000, "yes": 2000}), split("validation", 400, {"no": 100, "yes": 300})],
         "test": {"MRPC": 1725},
         "majority": {"label": "yes", "scores": {"validation": {"accuracy": 0.75, "f1": 0.857}}},
         "in_train": {"validation": {"examples": 4, "other_label": 1}}},
        {"task": "$stsb$", "kind": "regression", "labels": [], "metrics": ["pearson"],
         "splits": [split("train", 50, None, {"min": 0.0, "median": 2.5, "mean": 2.4, "max": 5.0}),
                    split("validation", 1500, None, {"min": 0.0, "median": 3.0, "mean": 2.4, "max": 5.0}, 2)],
         "test": None, "majority": None, "in_train": {"validation": {"examples": 0, "other_label": 0}}},
    ],
}  # fmt: skip

SAMPLES = {"sharing": SHARING, "cards": CARDS}
