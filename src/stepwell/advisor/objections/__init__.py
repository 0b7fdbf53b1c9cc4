"""What speaks against a choice that was asked for."""
from stepwell.advisor.objections.objection import Objection
def objections(recipe, ground): return ()
