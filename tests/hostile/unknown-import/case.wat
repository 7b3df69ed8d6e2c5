;; What {{…}} stands for is in tests/hostile/case.rs.
(component
  (import "acme:thing/door@1.0.0" (instance (export "open" (func))))
  {{types}}
  (core module $main
    {{memory}}
    (func (export "handle") (param i32) (result i32) (i32.const 8))
  )
  (core instance $m (instantiate $main))
  {{guest}})
