"""A page of evidence on a data set: the studies of this folder, one after another.

    python experiments/evidence.py --data DIR
    python experiments/evidence.py --data DIR --only ablate_recipe --only ablate_depth --phantoms

search_spaces/evidence.py declares the parts of the page.
"""

from pathlib import Path

from search_spaces.evidence import PARTS
from segmamba.commands.evidence import evidence_command

if __name__ == "__main__":
    evidence_command(PARTS, Path(__file__).parent)
