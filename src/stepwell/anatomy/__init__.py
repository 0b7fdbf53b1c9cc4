"""The anatomy of a model: the role and the depth of each parameter."""

from stepwell.anatomy.names import hidden_by_name, is_matrix
from stepwell.anatomy.roles import ROLES, Anatomy, Member, find_roles, role_by_name

__all__ = ["ROLES", "Anatomy", "Member", "find_roles", "hidden_by_name", "is_matrix", "role_by_name"]
