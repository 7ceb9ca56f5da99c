"""Small question-answering data in folders, as people have SQuAD's."""

import json
from pathlib import Path

NAMES = ("Ada", "Bo", "Cy", "Dee", "Eli", "Fay", "Gus", "Hal", "Ivy", "Jo")
TOWNS = ("Ulm", "Bern", "Cork", "Lyon", "Oslo", "Pisa", "Riga", "Turin", "Vaduz", "York")


def paragraph(number: int) -> dict[str, str]:
    """Return the towns of three people."""
    people = [(NAMES[(number + i) % 10], TOWNS[(3 * number + i) % 10]) for i in range(3)]
    return {name: f"{town}{number}" for name, town in people}


def write_squad_files(folder: Path, paragraphs: int = 60) -> Path:
    """Write `train.jsonl` and `valid.jsonl` with a question about each sentence."""
    folder.mkdir(parents=True)
    for file, numbers in (
        ("train.jsonl", range(paragraphs)),
        ("valid.jsonl", range(paragraphs, paragraphs + 5)),
    ):
        lines = []
        for number in numbers:
            homes = paragraph(number)
            text = " ".join(f"{name} lives in {town}." for name, town in homes.items())
            for name, town in homes.items():
                question = f"Where does {name} live?"
                lines.append(json.dumps({"context": text, "question": question, "answers": [town]}))
        (folder / file).write_text("\n".join(lines) + "\n")
    return folder
