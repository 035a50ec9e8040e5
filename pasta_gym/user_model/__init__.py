"""Who the hidden user is: a learned mixture of user types with a utility and a choice model (paper, section 5)."""
