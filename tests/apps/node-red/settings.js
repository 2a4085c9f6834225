module.exports = {
  flowFile: 'flows.json',
  credentialSecret: 'zoo',
  uiPort: process.env.PORT || 1880,
  diagnostics: { enabled: true, ui: true },
  telemetry: { enabled: false, updateNotification: false },
  editorTheme: { tours: false },
  logging: { console: { level: 'info', metrics: false, audit: false } },
};
