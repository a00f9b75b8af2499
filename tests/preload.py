"""A pytest plugin (``-p preload``) for `native_build.run_pytest`: test-only native modules instead of the installed."""

from native_build import preloaded_modules

preloaded_modules()
