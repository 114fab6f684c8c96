"""The page's parts: one build(...) each. With app.py and page.py the only place that knows gradio."""
