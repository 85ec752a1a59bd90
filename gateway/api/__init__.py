"""The routes: what can be asked of a gateway, and by whom."""
