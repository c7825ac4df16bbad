"""`interconv page`: a local web page for `interactive.Session`. It needs the extra `page`."""
