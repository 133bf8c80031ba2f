"""The roof: WebSocket, SSE and HTTP. The only folder that knows FastAPI."""
