"""What tests share: servers and clients, pictures, clips, and the programs that stand beside a server."""
