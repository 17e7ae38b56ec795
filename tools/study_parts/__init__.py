"""Parts of other projects and of the article, for the configs of tools/studies."""
