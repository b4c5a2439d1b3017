"""Authorization and JWT: who may do what (A1-A14, J1-J7)."""
