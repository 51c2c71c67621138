"""A builder's module with an import of its own that fails."""

import no_dependency  # noqa: F401
