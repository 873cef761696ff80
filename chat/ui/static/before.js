// Before Gradio starts: it puts its forms into the language that the browser asks for.
(() => {
  const language = localStorage.getItem('parley.language');
  if (!language) return;
  Object.defineProperty(navigator, 'language', { get: () => language });
  Object.defineProperty(navigator, 'languages', { get: () => [language] });
})();
