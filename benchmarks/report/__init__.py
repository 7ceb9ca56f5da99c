"""One pipeline from result files to tables, pictures and pages."""
