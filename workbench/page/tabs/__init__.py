"""The parts of the page. Only they, page.py and server.py import gradio."""
