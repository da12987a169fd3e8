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

  // Swagger UI brings the page's main part; what stays of ours stands below it.
  const ours = document.querySelector('main');
  const rest = document.createElement('section');
  rest.ariaLabel = 'Events, schemas and errors';
  rest.append(...ours.childNodes);
  ours.replaceWith(rest);

  SwaggerUIBundle({
    spec: api,
    dom_id: '#try',
    deepLinking: false, // its links would stand inside of buttons
    docExpansion: 'list',
    defaultModelsExpandDepth: -1, // the schemas stand below
    displayRequestDuration: true,
    validatorUrl: null,
    plugins: [samples],
  });
  document.body.classList.add('alive');
})();
