// Turns the reference of the API into one that can be tried: Swagger UI, over the same OpenAPI document.
// Without this the page is whole, too: it lists every operation, event, schema and error.
(async () => {
  const api = await (await fetch('/openapi.json')).json();
  api.servers = [{ url: location.origin }]; // as the reader reaches it: the page may call nothing else

  // The samples of an operation in other languages, which Swagger UI itself does not show.
  const samples = ({ React: { createElement: h, Fragment } }) => ({
    wrapComponents: {
      responses: (Original) => (props) => {
        const found = api.paths[props.path]?.[props.method]?.['x-codeSamples'] ?? [];
        const shown = found.map(({ lang, label, source }) =>
          h('details', { key: lang, className: 'sample' }, h('summary', null, label), h('pre', { tabIndex: 0 }, source)));
        return h(Fragment, null, ...shown, h(Original, props));
      },
    },
  });

  SwaggerUIBundle({
    spec: api,
    dom_id: '#try',
    deepLinking: true,
    docExpansion: 'list',
    defaultModelsExpandDepth: 0,
    displayRequestDuration: true,
    validatorUrl: null,
    plugins: [samples],
  });
  document.body.classList.add('alive');
})();
