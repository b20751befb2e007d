"""The web demo of tools/web_demo.py; only `page` needs Gradio."""
