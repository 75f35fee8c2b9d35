"""The server: files over HTTP as OpenAI's clients send them, live speech over WebSockets, and a page to speak into.

``app`` puts the routes together, ``engine`` transcribes files of many requests at once, ``server`` listens.
"""
