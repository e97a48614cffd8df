"""The storage of static files: names with a digest where `collectstatic` has run, plain names where it hasn't."""

from whitenoise.storage import CompressedManifestStaticFilesStorage


class StaticFiles(CompressedManifestStaticFilesStorage):  # type: ignore[misc]  # WhiteNoise has no types
    """WhiteNoise's storage, which refers to a file that isn't in the manifest by its plain name.

    Django raises ValueError for such a file, so that every page is a 500. With `WHITENOISE_USE_FINDERS`, WhiteNoise
    serves the plain names from the apps' own folders.
    """

    def stored_name(self, name: str) -> str:
        """Returns the name with its digest, or `name` where the manifest has no such file."""
        try:
            return str(super().stored_name(name))
        except ValueError:
            return name
