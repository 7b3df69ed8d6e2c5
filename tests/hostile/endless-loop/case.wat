;; What {{…}} stands for is in tests/hostile/case.rs.
(component
  {{types}}
  (core module $main
    {{memory}}
    (func (export "handle") (param i32) (result i32)
      (loop (br 0)) unreachable)
  )
  (core instance $m (instantiate $main))
  {{guest}})
