"""Write book/results/released_encoders.json: facts about the released checkpoints, for readers without them.

    TSLAB_MIRROR=/path/to/copy python data_scripts/record_released_encoders.py
"""

from tslab_book.released_encoders import RECORD, write_released_encoder_facts

if __name__ == "__main__":
    write_released_encoder_facts()
    print(f"wrote {RECORD.name}")
