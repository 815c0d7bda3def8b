"""Off-policy fine-tuning (MFM-FT; MATH 7): draws, the loss, the distance of the result from its base."""
