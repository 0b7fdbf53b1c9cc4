"""From a description of a training problem to its possible causes, in the order in which to check them."""

from stepwell.doctor.symptoms.answer import Answer, Cause
from stepwell.doctor.symptoms.asking import ask, known_symptoms

__all__ = ["Answer", "Cause", "ask", "known_symptoms"]
