"""The way back: durable ordered logs, replay that joins live, and who has read how far."""
