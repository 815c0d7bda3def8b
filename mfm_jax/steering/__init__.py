"""Steering to p*(x) proportional to p_1(x) exp r(x): value estimates and drifts (MATH 6)."""
