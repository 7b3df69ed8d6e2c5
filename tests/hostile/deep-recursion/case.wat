;; What {{…}} stands for is in tests/hostile/case.rs.
(component
  {{types}}
  (core module $main
    {{memory}}
    (func $f (call $f) (call $f))
    (func (export "handle") (param i32) (result i32)
      (call $f) unreachable)
  )
  (core instance $m (instantiate $main))
  {{guest}})
