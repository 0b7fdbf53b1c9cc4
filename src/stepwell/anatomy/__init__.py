"""What the parameters of a model are: the role of each, and how deep it lies."""

from stepwell.anatomy.names import hidden_by_name, is_matrix
from stepwell.anatomy.roles import ROLES, Anatomy, Member, find_roles, role_by_name

__all__ = ["ROLES", "Anatomy", "Member", "find_roles", "hidden_by_name", "is_matrix", "role_by_name"]
