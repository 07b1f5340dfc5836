"""Make tickets of 70 % whose matrices have different sparsities, for `--like` of a search.

Usage: python docs/results/settings/allocations.py ENCODER OUT

Each ticket keeps the largest weights of a matrix; the numbers of kept weights are what the searches take from it.
"""

import sys
from pathlib import Path

from winning_tickets import Ticket
from winning_tickets.models.loading import load_plm, prunable_names
from winning_tickets.tickets.selection import keep_top, magnitudes

SPARSITY = 0.7
DENSER = {  # a part of the name, and the sparsity of these matrices; the others share what is left
    "attention": (".attention.", 0.55),
    "before-norms": (".output.dense", 0.55),
    "layers": (".layer.", 0.6),
    "embeddings": ("word_embeddings", 0.6),
}


def main(encoder: str, out: Path) -> None:
    """Write a ticket for each entry of `DENSER`."""
    plm = load_plm(encoder)
    parameters = dict(plm.encoder.named_parameters())
    weights = {name: parameters[name].detach() for name in prunable_names(plm, "encoder+embeddings")}
    total = sum(weight.numel() for weight in weights.values())
    for name, (part, sparsity) in DENSER.items():
        inside = {one for one in weights if part in one}
        size = sum(weights[one].numel() for one in inside)
        other = (SPARSITY * total - sparsity * size) / (total - size)
        masks = {}
        for one, weight in weights.items():
            own = sparsity if one in inside else other
            masks |= keep_top(magnitudes({one: weight}), own)
        ticket = Ticket.from_masks(masks, encoder, method=f"denser-{name}", settings={"denser": part})
        ticket.save_pretrained(out / name)
        made = f"{name}: {sparsity:.0%} of {len(inside)} matrices"
        print(f"{made}, {other:.1%} of the others, {ticket.sparsity:.2%} in all")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
