"""Accuracy of the answers from memories: exact match, rejections, calibration."""
