"""``dragoman translate-file``: a file in, the same file in another language out.

    formats.read -> Document (segments) -> translator (bulk stream) -> journal -> Document.render

A format cuts a file into segments and puts their translations back; it knows nothing of servers.
Libraries of formats come with the extra ``files`` and are imported when a file needs them.
"""
