"""The web page: its server and its tabs. The only package that imports gradio."""
