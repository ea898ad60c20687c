"""`synthpert demo`: both stages on the sample, sized to the minutes given."""
