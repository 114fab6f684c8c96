"""The web page: its server, its tabs. With app.py the only place that imports gradio."""
