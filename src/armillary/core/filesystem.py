"""Paths and URLs by way of fsspec, with errors a person can act on."""

from __future__ import annotations

from typing import Any

from armillary.errors import InputError, MissingExtraError


def filesystem(path: str) -> tuple[Any, str]:
    """The file system a path or URL lies in, and the path inside it.

    Raises:
        MissingExtraError: the URL's kind needs a package that is not installed.
        InputError: no such kind of URL.
    """
    from fsspec.core import url_to_fs

    try:
        system, root = url_to_fs(path)
    except ImportError as error:
        raise MissingExtraError(f"'{path}' cannot be read: {error}") from None
    except ValueError as error:
        raise InputError(f"'{path}' cannot be read: {error}; a path, or a URL such as s3://bucket/folder, is needed") from None
    return system, str(root)
