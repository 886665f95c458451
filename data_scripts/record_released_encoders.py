"""Write book/results/released_encoders.json: facts about the released checkpoints, for readers without them.

    TSLAB_MIRROR=/path/to/copy python data_scripts/record_released_encoders.py
"""

from pathlib import Path

from tslab.benchmark.released_encoders import RECORD, write_released_encoder_facts

if __name__ == "__main__":
    target = Path(__file__).resolve().parents[1] / "book" / "results" / RECORD
    write_released_encoder_facts(target)
    print(f"wrote {target}")
