"""Names that the deployment tests share."""

MODEL = "half_plus_two"
