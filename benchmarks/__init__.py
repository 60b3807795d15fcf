"""What Darkroom costs, as ratios against a reference that is measured beside it in the same run."""
