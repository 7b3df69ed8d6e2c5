(component
  (core module $m)
  {{repeat 65: (core instance (instantiate $m))}})
