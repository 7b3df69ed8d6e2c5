;; What {{…}} stands for is in tests/hostile/case.rs.
(component
  {{types}}
  (core module $main
    (memory (export "memory") 816)
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 0))
    (data (i32.const 1048576) "{{repeat 50000000: x}}")
    (func (export "handle") (param i32) (result i32) (i32.const 900000))
  )
  (core instance $m (instantiate $main))
  {{guest}})
