"""What memories answer: exact match, refusals, calibration."""
