"""The grading of an answer against the right answers of its question.

The tasks `kv` and `records` compare texts as they are. All others compare normalised texts and have
F1 beside exact match, both as in SQuAD's evaluation script (Rajpurkar et al., 2016, arXiv
1606.05250, section 6.1): lower case, no punctuation, no articles, single blanks, the best of all
right answers.
"""

import re
import string
from collections import Counter

from training.tasks import Question

ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise(text: str) -> str:
    """Return a text without case, punctuation, articles and spare blanks."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split())


def exact_match(answer: str, question: Question, *, normalised: bool) -> bool:
    """Return True where an answer is one of the right answers.

    Args:
        answer: The answer.
        question: The question, with its right answers.
        normalised: Compare normalised texts.
    """
    right = (question.answer, *question.also_right)
    if not normalised:
        return answer in right
    return normalise(answer) in map(normalise, right)


def f1(answer: str, question: Question) -> float:
    """Return the harmonic mean of precision and recall of the normalised words, 0 to 1."""
    return max(_overlap(answer, right) for right in (question.answer, *question.also_right))


def _overlap(answer: str, right: str) -> float:
    ours, theirs = normalise(answer).split(), normalise(right).split()
    if not ours or not theirs:
        return float(ours == theirs)
    common = (Counter(ours) & Counter(theirs)).total()
    return 2 * common / (len(ours) + len(theirs))
