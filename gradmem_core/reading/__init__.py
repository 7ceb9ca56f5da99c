"""READ: queries are answered from memories."""
