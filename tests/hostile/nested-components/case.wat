{{repeat 100: (component}}
{{repeat 100: )}}
