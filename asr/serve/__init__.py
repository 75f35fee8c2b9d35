"""The server: HTTP, live speech over WebSocket, and a page to speak into."""
