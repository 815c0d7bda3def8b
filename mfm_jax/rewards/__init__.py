"""Rewards r(x, cond) -> (B,), float32."""
